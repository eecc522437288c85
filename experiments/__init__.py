"""What we learn: training, fine-tuning and the demo."""
