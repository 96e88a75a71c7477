"""Who answers rows with actions: this process, or inference servers."""
