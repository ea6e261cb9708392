"""Image metrics, what is compared with what, and reports."""
