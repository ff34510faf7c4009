"""Language models, embedders and summarizers behind the ports, each chosen by its settings."""
