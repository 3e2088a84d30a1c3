"""What PyTorch's ops and JAX's share about their arguments: settings, checks and broadcasting; imports neither."""
