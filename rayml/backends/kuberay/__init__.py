"""Runs on Kubernetes through KubeRay. Rendering touches nothing; what it gives is what is sent."""
