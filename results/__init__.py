"""Data: published figures, image sizes, records. No code."""
