-- The mail of users that a notification sends: its address, and the token for its text, are looked up at each attempt and never stored.
alter table notification add column account_mail uuid;
-- The exact kind of such a notification. `kind` admits the kinds of the first version alone, and older processes read it.
alter table notification add column account_kind text;
