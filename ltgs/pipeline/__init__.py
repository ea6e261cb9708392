"""The whole line: configuration, stages, order, resume, and what a stored scene says."""
