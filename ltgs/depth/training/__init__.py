"""Training of the stereo network: data, losses, stages, checkpoints."""
