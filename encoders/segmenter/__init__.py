"""What stands around an encoder: masked decoder, post-processing, the whole model."""
