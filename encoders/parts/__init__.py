"""What the encoders share: attention, layers, pixel embedding, recalibration."""
