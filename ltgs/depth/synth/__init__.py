"""Synthetic stereo pairs with exact disparity: rooms of primitives, ray-cast in torch."""
