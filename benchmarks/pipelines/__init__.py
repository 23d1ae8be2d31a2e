"""Every diffusers pipeline, tiny: its gradients against full backpropagation of its own call."""
