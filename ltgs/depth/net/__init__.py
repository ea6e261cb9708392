"""Learned stereo matching fused with a monocular prior (after Yao et al., ICCV 2025): architecture and weight loading."""
