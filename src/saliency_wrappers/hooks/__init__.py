"""What watches an agent: the hook, the decision window and the check by replay. Imports agents and preprocessing."""
