"""What anabranch costs, beside the bare engines in the same process and run."""
