use super::*;

#[test]
fn what_is_in_the_copy_is_not_applied_again() {
    let snapshot = "10:20:10,15".parse().unwrap();
    let copied = Copied { trigger_oid: 1, snapshot, rows: Some(3), table_oid: Some(16400) };
    let name = |n: &str| ("public".to_owned(), n.to_owned());
    let t_now = Captured { schema: "public".into(), name: "t".into(), trigger_oid: 1 };
    let mut tables = Tables {
        agent: "a".into(),
        slave: "s".into(),
        initial: Initial::Copy,
        mapping: Arc::default(),
        copied: HashMap::from([(name("t"), copied)]),
        asked: HashMap::from([((name("old"), 8), None), ((name("passing"), 7), Some(t_now))]),
        held: None,
        awaited: HashMap::new(),
        absent: Vec::new(),
        due: HashSet::new(),
        unknown: None,
    };
    let check = |table, xid, gate| {
        let oid = if table == "old" { 8 } else { 7 };
        assert_eq!(tables.gate("public", table, oid, xid), gate);
    };
    let all = |xids| tables.gate_of_all("public", "t", 6, xids);
    assert_eq!(all((5, 9)), Some(Gate::Skip));
    assert_eq!(all((9, 12)), None);
    assert_eq!(all((20, 25)), Some(Gate::Apply));
    assert_eq!(tables.gate_of_all("public", "passing", 7, (20, 25)), None);
    check("t", 9, Gate::Skip);
    check("t", 10, Gate::Apply);
    check("t", 12, Gate::Skip);
    check("t", 15, Gate::Apply);
    check("t", 20, Gate::Apply);
    check("old", 12, Gate::Skip);
    check("new", 12, Gate::Unknown);
    check("passing", 12, Gate::Skip);
    check("passing", 20, Gate::Apply);
    assert_eq!(tables.gate("public", "passing", 9, 20), Gate::Unknown, "another table's turn");
    assert_eq!(tables.gate("other", "t", 7, 20), Gate::Unknown);
    assert_eq!(tables.other_names("public", "t", 7), None);
    assert_eq!(tables.other_names("public", "passing", 7).unwrap()[0], name("t"));
    let level = "21:21:".parse().unwrap();
    let table = CapturedTable {
        schema: "public".into(),
        name: "u".into(),
        trigger_oid: 2,
        oids: vec![7],
        key_columns: vec!["id".into()],
        partitioned: false,
        part: Part::default(),
    };
    let copied = CopiedTable { table: table.clone(), snapshot: "18:18:".into(), rows: 5, table_oid: 16401 };
    let mut rows: Vec<_> = tables.rewound(&table, Some(&copied), &level).unwrap();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let shown: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.snapshot.as_str())).collect();
    assert_eq!(shown, [("", "21:21:"), ("t", "21:21:"), ("u", "18:18:")]);
    let early = "15:15:".parse().unwrap();
    assert!(
        tables.rewound(&table, None, &early).unwrap().iter().all(|row| row.name != "t"),
        "t was copied later than that"
    );
    assert!(!tables.has_run(3));

    let captured = |name: &str, trigger_oid| CapturedTable {
        schema: "public".into(),
        name: name.into(),
        trigger_oid,
        oids: vec![10 + trigger_oid],
        key_columns: vec!["id".into()],
        partitioned: false,
        part: Part::default(),
    };
    assert!(tables.complete(&[captured("t", 1)]));
    assert!(!tables.complete(&[captured("t", 2)]), "removed and added again");
    assert!(!tables.complete(&[captured("t", 1), captured("u", 3)]));
    assert!(tables.is_remade(&captured("t", 2), Some(16500)));
    for there in [Some(16400), None] {
        assert!(!tables.is_remade(&captured("t", 2), there), "{there:?}");
    }
    assert!(!tables.is_remade(&captured("u", 3), Some(16500)), "it was never copied");

    tables.wait_for(&[captured("t", 2), captured("u", 3)], Vec::new());
    assert_eq!(tables.gate("public", "t", 12, 20), Gate::Skip);
    assert_eq!(tables.gate("public", "t", 6, 20), Gate::Apply, "another one has the name now");
    assert_eq!(tables.gate("public", "u", 99, 20), Gate::Skip, "a partition that was dropped");
}
