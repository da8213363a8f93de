"""Acting: observe the live state, carry out a plan, settle what an interrupted run left."""
