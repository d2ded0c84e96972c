-- One database per service; each is migrated by its own service when it starts.
CREATE DATABASE orders;
CREATE DATABASE payments;
CREATE DATABASE fulfillment;
CREATE DATABASE returns;
CREATE DATABASE notifications;
CREATE DATABASE support_view;
