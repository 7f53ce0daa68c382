"""How good are the predictions? Data sets, inference, PQ, AP, mIoU."""
