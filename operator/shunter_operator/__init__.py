"""The operator: turns ModelPools into Deployments on a cluster, and keeps them so."""
