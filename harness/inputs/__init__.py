"""What goes in: image sizes and photos."""
