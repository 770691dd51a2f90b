"""Regions of interest: sets of blocks, versioned as a whole."""
