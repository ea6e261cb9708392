"""Why the program decided what it decided about one visit, as a page for a person."""
