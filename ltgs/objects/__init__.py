"""Instances, templates, their association over time and their poses."""
