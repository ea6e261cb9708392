"""What differs between a render of the known scene and a new photo, after light has been accounted for."""
