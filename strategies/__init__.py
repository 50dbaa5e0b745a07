"""The server side: Flower strategies that decode compressed updates of submodels."""
