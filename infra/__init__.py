"""The cloud account below Kubernetes: an AWS CDK app, and commands that say what it costs and whether it fits."""
