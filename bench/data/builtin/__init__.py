"""Built-in corpora, deterministic and offline. Reading order: corpora, passages, ratings, notices, endings, written."""
