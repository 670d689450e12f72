"""The loyalty programme as pure functions: earning, caps, tiers, campaigns, rewards and expiry."""
