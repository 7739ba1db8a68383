"""What Mesh-TensorFlow lacks: halo exchange, differentiable local operations, today's TensorFlow."""
