"""Fitting Gaussians to photos: initialisation, growth, training of the first visit, refinement of later ones."""
