"""What runs on the control node: experiments, cluster, deployment, policies, replay, records."""
