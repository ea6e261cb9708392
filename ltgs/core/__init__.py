"""Pure data types and mathematics: no file access, no logging, no third-party package but numpy and torch."""
