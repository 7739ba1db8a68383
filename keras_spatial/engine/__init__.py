"""What Mesh-TensorFlow lacks: general halo exchange, differentiable local operations, and passes over the graph."""
