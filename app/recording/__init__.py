"""Request logging: picked requests go, with their answers, to TFRecord files of PredictionLogs."""
