"""What generates: the engine protocol and its implementations. An engine knows nothing of Ray or HTTP."""
