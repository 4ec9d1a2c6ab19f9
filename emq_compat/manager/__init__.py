"""What the job manager is made of: credit, losses, remote control, signals, eventmq's settings."""
