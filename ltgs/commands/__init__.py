"""The commands of `ltgs`, one dataclass each: its fields are the arguments, `run` returns the exit code."""
