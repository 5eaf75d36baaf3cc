"""The Ray Serve application: the replicas that answer, and the pools behind them."""
