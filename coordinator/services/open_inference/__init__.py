"""The Open Inference Protocol: the front that Triton's and KServe's clients speak to."""
