-- Workers ask with each group whether a version that they know was closed meanwhile. Few ever are, so what was not
-- closed is told by what is missing here, without a look at each version.
CREATE INDEX dim_advertisers_closed ON warehouse.dim_advertisers (advertiser_sk) WHERE NOT is_current;
