"""One reader per published dataset layout: files become `Sequence` here and nowhere later."""
