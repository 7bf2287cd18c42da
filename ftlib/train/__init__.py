"""Fine-tuning: the per-worker loop, its parallel strategies, checkpoints and the Ray Train driver."""
