-- What an ad says in several ways is written once. Most quantities follow from amount, price and limits, and
-- flags, scales and class have a handful of values: one integer tells them, and their columns stay NULL.
-- Programs of before write all columns and no traits, which reads the same. Further, partitions are made with
-- their columns in an order that wastes no room on alignment.

ALTER TABLE warehouse.offer_versions ADD COLUMN traits integer;
COMMENT ON COLUMN warehouse.offer_versions.traits IS 'What is told here instead of in columns of its own, which are then NULL; offer_contents spells it out. From the lowest bit: tradable_quantity (2 bits: 1 as available_amount, 2 that without the commission), dynamic_max_limit (2: 1 what is tradable, at most max_limit, whole; 2 with fiat_scale), min_quantity, max_quantity, dynamic_max_quantity (1 each: as the limits divided by price), is_tradable, is_safe_payment, taker_kyc_required (2 each: 1 false, 2 true), asset_scale, fiat_scale, price_scale (4 each: one more than it), classify (3: 1 mass, 2 profession, 3 block, 4 cash, 5 fiat_trade). 0 in each: the column tells. NULL: all columns tell.';

CREATE FUNCTION warehouse.trait(traits integer, lowest_bit integer, bits integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (traits >> lowest_bit) & ((1 << bits) - 1);
COMMENT ON FUNCTION warehouse.trait(integer, integer, integer) IS 'Some bits of offer_versions.traits as a number. NULL: no traits.';

CREATE VIEW warehouse.offer_contents AS
SELECT v.day,
       v.id,
       v.market_id,
       v.advertiser_sk,
       v.content_hash,
       v.first_seen_at,
       v.adv_no,
       v.price,
       v.available_amount,
       t.tradable_quantity,
       v.min_limit,
       v.max_limit,
       coalesce(v.dynamic_max_limit,
                CASE warehouse.trait(v.traits, 2, 2)
                    WHEN 1 THEN least(v.max_limit, trunc(v.price * t.tradable_quantity))
                    WHEN 2 THEN least(v.max_limit, trunc(v.price * t.tradable_quantity, s.fiat_scale))
                END)::numeric(20, 8) AS dynamic_max_limit,
       coalesce(v.min_quantity,
                CASE WHEN warehouse.trait(v.traits, 4, 1) = 1 THEN trunc(v.min_limit / v.price, s.asset_scale) END
               )::numeric(20, 8) AS min_quantity,
       q.max_quantity,
       coalesce(v.dynamic_max_quantity,
                CASE WHEN warehouse.trait(v.traits, 6, 1) = 1 THEN least(q.max_quantity, t.tradable_quantity) END
               )::numeric(20, 8) AS dynamic_max_quantity,
       v.initial_amount,
       v.amount_after_editing,
       v.commission_rate,
       v.taker_commission_rate,
       v.min_taker_fee,
       v.pay_time_limit_minutes,
       v.payment_method_ids,
       coalesce(v.classify,
                CASE warehouse.trait(v.traits, 25, 3)
                    WHEN 1 THEN 'mass' WHEN 2 THEN 'profession' WHEN 3 THEN 'block' WHEN 4 THEN 'cash' WHEN 5 THEN 'fiat_trade'
                END) AS classify,
       coalesce(v.is_tradable, CASE warehouse.trait(v.traits, 7, 2) WHEN 1 THEN false WHEN 2 THEN true END) AS is_tradable,
       coalesce(v.is_safe_payment, CASE warehouse.trait(v.traits, 9, 2) WHEN 1 THEN false WHEN 2 THEN true END) AS is_safe_payment,
       coalesce(v.taker_kyc_required, CASE warehouse.trait(v.traits, 11, 2) WHEN 1 THEN false WHEN 2 THEN true END) AS taker_kyc_required,
       s.asset_scale,
       s.fiat_scale,
       coalesce(v.price_scale, nullif(warehouse.trait(v.traits, 21, 4), 0) - 1)::smallint AS price_scale,
       v.auto_reply,
       v.terms,
       v.price_type,
       v.price_floating_ratio,
       v.rate_floating_ratio,
       v.buyer_kyc_limit,
       v.buyer_registration_days,
       v.buyer_btc_position,
       v.voucher_template,
       v.system_labels,
       v.taker_conditions,
       v.adv_status,
       v.ad_created_at,
       v.ad_updated_at,
       v.warnings
  FROM warehouse.offer_versions v
 CROSS JOIN LATERAL (
       SELECT coalesce(v.asset_scale, nullif(warehouse.trait(v.traits, 13, 4), 0) - 1)::smallint AS asset_scale,
              coalesce(v.fiat_scale, nullif(warehouse.trait(v.traits, 17, 4), 0) - 1)::smallint AS fiat_scale) s
 CROSS JOIN LATERAL (
       SELECT coalesce(v.tradable_quantity,
                       CASE warehouse.trait(v.traits, 0, 2)
                           WHEN 1 THEN v.available_amount
                           WHEN 2 THEN trunc(v.available_amount / (1 + v.commission_rate), s.asset_scale)
                       END)::numeric(20, 8) AS tradable_quantity) t
 CROSS JOIN LATERAL (
       SELECT coalesce(v.max_quantity,
                       CASE WHEN warehouse.trait(v.traits, 5, 1) = 1 THEN trunc(v.max_limit / v.price, s.asset_scale) END
                      )::numeric(20, 8) AS max_quantity) q;
COMMENT ON VIEW warehouse.offer_contents IS 'What ads said, spelled out: offer_versions with every column filled that its traits tell.';
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT a.attname, col_description(a.attrelid, a.attnum) AS said
               FROM pg_attribute a
              WHERE a.attrelid = 'warehouse.offer_versions'::regclass AND a.attnum > 0 AND NOT a.attisdropped
                AND a.attname <> 'traits' LOOP
        EXECUTE format('COMMENT ON COLUMN warehouse.offer_contents.%I IS %L', c.attname, c.said);
        IF c.attname IN ('tradable_quantity', 'dynamic_max_limit', 'min_quantity', 'max_quantity', 'dynamic_max_quantity', 'classify',
                         'is_tradable', 'is_safe_payment', 'taker_kyc_required', 'asset_scale', 'fiat_scale', 'price_scale') THEN
            EXECUTE format('COMMENT ON COLUMN warehouse.offer_versions.%I IS %L', c.attname,
                           replace(c.said, 'NULL: not told', 'NULL: told by traits, or not told'));
        END IF;
    END LOOP;
END
$$;

-- The other direction, by the same expressions: whatever way a division is rounded, what is read is what was sent.
CREATE FUNCTION pipeline.offer_traits(price numeric, available_amount numeric, tradable_quantity numeric, min_limit numeric,
                                       max_limit numeric, dynamic_max_limit numeric, min_quantity numeric, max_quantity numeric,
                                       dynamic_max_quantity numeric, commission_rate numeric, classify text,
                                       is_tradable boolean, is_safe_payment boolean, taker_kyc_required boolean,
                                       asset_scale smallint, fiat_scale smallint, price_scale smallint) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN tradable_quantity = available_amount THEN 1
            WHEN commission_rate > -1 AND tradable_quantity = trunc(available_amount / (1 + commission_rate), asset_scale) THEN 2
            ELSE 0 END
     | (CASE WHEN dynamic_max_limit = least(max_limit, trunc(price * tradable_quantity)) AND tradable_quantity IS NOT NULL THEN 1
             WHEN dynamic_max_limit = least(max_limit, trunc(price * tradable_quantity, fiat_scale))
                  AND tradable_quantity IS NOT NULL AND fiat_scale IS NOT NULL THEN 2
             ELSE 0 END << 2)
     | (CASE WHEN price > 0 AND min_quantity = trunc(min_limit / price, asset_scale) THEN 1 ELSE 0 END << 4)
     | (CASE WHEN price > 0 AND max_quantity = trunc(max_limit / price, asset_scale) THEN 1 ELSE 0 END << 5)
     | (CASE WHEN dynamic_max_quantity = least(max_quantity, tradable_quantity)
                  AND max_quantity IS NOT NULL AND tradable_quantity IS NOT NULL THEN 1 ELSE 0 END << 6)
     | (coalesce(1 + is_tradable::integer, 0) << 7)
     | (coalesce(1 + is_safe_payment::integer, 0) << 9)
     | (coalesce(1 + taker_kyc_required::integer, 0) << 11)
     | (CASE WHEN asset_scale BETWEEN 0 AND 14 THEN asset_scale + 1 ELSE 0 END << 13)
     | (CASE WHEN fiat_scale BETWEEN 0 AND 14 THEN fiat_scale + 1 ELSE 0 END << 17)
     | (CASE WHEN price_scale BETWEEN 0 AND 14 THEN price_scale + 1 ELSE 0 END << 21)
     | (coalesce(array_position('{mass,profession,block,cash,fiat_trade}'::text[], classify), 0) << 25);
COMMENT ON FUNCTION pipeline.offer_traits(numeric, numeric, numeric, numeric, numeric, numeric, numeric, numeric, numeric, numeric, text, boolean, boolean, boolean, smallint, smallint, smallint) IS 'The traits of an ad (offer_versions.traits): which of its columns others tell.';

-- What read columns that may be in the traits now: the same, from the contents. Their texts stand where they were made.
DO $$
DECLARE
    part CONSTANT text := 'warehouse.offer_versions v';
    functions CONSTANT name[] := '{book, walk_book}';
    found name[];
    f regprocedure;
    made text := pg_get_viewdef('warehouse.fact_offers'::regclass);
BEGIN
    SELECT array_agg(p.proname ORDER BY p.proname) INTO found FROM pg_proc p
     WHERE p.pronamespace = 'warehouse'::regnamespace AND p.prosrc LIKE '%' || part || '%';
    IF position(part IN made) = 0 OR found IS DISTINCT FROM functions THEN
        RAISE EXCEPTION 'what reads versions is not fact_offers and %: %, and %', functions, made, found;
    END IF;
    EXECUTE 'CREATE OR REPLACE VIEW warehouse.fact_offers AS ' || replace(made, part, 'warehouse.offer_contents v');
    FOR f IN SELECT p.oid FROM pg_proc p
              WHERE p.pronamespace = 'warehouse'::regnamespace AND p.proname = ANY (functions) LOOP
        EXECUTE replace(pg_get_functiondef(f), part, 'warehouse.offer_contents v');
    END LOOP;
END
$$;

-- Columns of a partition that take a fixed room go first, the widest before all: 6 bytes of each page.
ALTER TABLE pipeline.partitioned_tables ADD COLUMN is_packed boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN pipeline.partitioned_tables.is_packed IS 'Whether columns of a partition stand in the order that takes the least room, whatever that of the table: for tables of plain columns, without defaults, checks or storage of their own.';
UPDATE pipeline.partitioned_tables SET is_packed = true
 WHERE (schema_name, table_name) IN (('warehouse', 'book_pages'), ('warehouse', 'offer_versions'));

CREATE FUNCTION pipeline.packed_columns(parent regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (SELECT string_agg(format('%I %s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                                 CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END), ', '
                          ORDER BY a.attlen < 0, array_position('{d,i,s,c}'::"char"[], a.attalign), a.attnum)
          FROM pg_attribute a
         WHERE a.attrelid = parent AND a.attnum > 0 AND NOT a.attisdropped);
COMMENT ON FUNCTION pipeline.packed_columns(regclass) IS 'The columns of a table as CREATE TABLE takes them, in the order that wastes no room on alignment.';

CREATE OR REPLACE FUNCTION pipeline.make_partitions(first date, last date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    p record;
    made integer := 0;
BEGIN
    IF first IS NULL OR last IS NULL OR last - first NOT BETWEEN 0 AND 400 THEN
        RAISE EXCEPTION 'partitions from % to %: allowed are 0 to 400 days', first, last;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('pipeline.make_partitions'));
    FOR p IN
        SELECT format('%I.%I', t.schema_name, t.table_name) AS parent,
               format('%I.%I', t.schema_name, t.table_name || to_char(s, CASE t.step WHEN 'day' THEN '_YYYYMMDD' ELSE '_YYYYMM' END)) AS child,
               t.step, t.fillfactor, t.is_packed, s::date AS from_day, (s + ('1 ' || t.step)::interval)::date AS to_day
          FROM pipeline.partitioned_tables t
         CROSS JOIN LATERAL generate_series(date_trunc(t.step, first::timestamp), last::timestamp, ('1 ' || t.step)::interval) AS s
         ORDER BY from_day, t.drop_order
    LOOP
        CONTINUE WHEN to_regclass(p.child) IS NOT NULL;
        BEGIN
            -- Indexes come with LIKE, or with ATTACH, which makes those that lack.
            EXECUTE format('CREATE TABLE %s (%s) WITH (fillfactor = %s)', p.child,
                           CASE WHEN p.is_packed THEN pipeline.packed_columns(p.parent::regclass)
                                ELSE format('LIKE %s INCLUDING ALL', p.parent) END, p.fillfactor);
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
                           p.parent, p.child, p.from_day, p.to_day);
            EXECUTE format('COMMENT ON TABLE %s IS %L', p.child,
                           CASE p.step WHEN 'day' THEN 'Day ' || p.from_day ELSE 'Month ' || to_char(p.from_day, 'YYYY-MM') END
                           || ' of ' || p.parent || '.');
            made := made + 1;
        EXCEPTION WHEN lock_not_available THEN
            -- Somebody analyzes or alters the table. What is needed at once is an error; what is made
            -- ahead is made at the next batch.
            IF p.from_day <= first THEN
                RAISE;
            END IF;
            RAISE WARNING '% could not be made yet: %', p.child, SQLERRM;
            RETURN made;
        END;
    END LOOP;
    RETURN made;
END
$$;

SELECT pipeline.grant_roles();
