"""From samples to adapters: layout, tokenizers, model, one training loop."""
