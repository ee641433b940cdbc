"""Who may connect, and who may ask for what: TLS, tokens, and the files behind them, read anew."""
