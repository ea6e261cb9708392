"""Files in and out: photos, splat formats, camera files and the scene folder. Every reader refuses what it cannot trust."""
