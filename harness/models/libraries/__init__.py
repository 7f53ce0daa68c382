"""Models by the names that installed libraries give them: ``hf:``, ``timm:``, ``torchvision:``."""
