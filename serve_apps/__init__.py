"""Ray Serve applications: the OpenAI-compatible endpoint."""
