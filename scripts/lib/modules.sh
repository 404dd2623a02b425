# The modules of the shop, in the order in which they start. Sourced by scripts, not run.
#
# Made from app/src/shop.rs by the test `architecture::the_scripts_know_the_modules`; change that table, not this file.
readonly MODULES="users catalog inventory payments shipping orders notifications"
