use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn pairs(map: &PersistentMap<u16, u32>) -> Vec<(u16, u32)> {
    map.iter().map(|(k, v)| (*k, *v)).collect()
}

/// Panics unless the invariants hold below `node`; its depth.
fn check(node: &Node<u16, u32>, least: u16, below: Option<u16>) -> usize {
    let inside = |key: u16| key >= least && below.is_none_or(|below| key < below);
    match node {
        Node::Leaf(entries) => {
            assert!(!entries.is_empty() && entries.len() <= FULL);
            assert!(entries.iter().all(|(key, _)| inside(*key)));
            assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
            1
        }
        Node::Inner(children) => {
            assert!(!children.is_empty() && children.len() <= FULL);
            let depths: Vec<usize> = (0..children.len())
                .map(|i| {
                    let next = children.get(i + 1).map(|(key, _)| *key).or(below);
                    assert_eq!(first_key(&children[i].1), Some(&children[i].0));
                    check(&children[i].1, children[i].0, next)
                })
                .collect();
            assert!(depths.iter().all(|depth| *depth == depths[0]));
            1 + depths[0]
        }
    }
}

fn checked(map: &PersistentMap<u16, u32>) {
    if let Some(root) = &map.root {
        check(root, 0, None);
    }
}

proptest! {
    #[test]
    fn a_map_agrees_with_a_btree_map_and_copies_do_not_change(
        ops in prop::collection::vec((0u16..400, prop::option::weighted(0.6, any::<u32>())), 1..900),
        places in prop::collection::vec(0u16..420, 8),
    ) {
        let (mut map, mut model) = (PersistentMap::new(), BTreeMap::new());
        let mut copies = Vec::new();
        for (i, (key, value)) in ops.into_iter().enumerate() {
            match value {
                Some(value) => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                None => prop_assert_eq!(map.remove(&key), model.remove(&key)),
            }
            prop_assert_eq!(map.len(), model.len());
            if i % 50 == 0 {
                copies.push((map.clone(), model.clone()));
            }
        }
        if let Some((key, value)) = model.iter_mut().next() {
            *value = 7;
            *map.get_mut(key).unwrap() = 7;
        }
        copies.push((map, model));
        for (map, model) in copies {
            checked(&map);
            prop_assert_eq!(pairs(&map), model.clone().into_iter().collect::<Vec<_>>());
            for place in &places {
                prop_assert_eq!(map.get(place), model.get(place));
                prop_assert_eq!(map.floor(|k| k.cmp(place)), model.range(..=place).next_back());
                let from: Vec<_> = map.iter_from(|k| k.cmp(place)).collect();
                prop_assert_eq!(from, model.range(place..).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_map_that_empties_from_either_end_stays_dense() {
    for backwards in [false, true] {
        let mut map: PersistentMap<u16, u32> = (0..20_000).map(|n| (n, u32::from(n))).collect();
        checked(&map);
        for n in 0..19_990 {
            let key = if backwards { 19_999 - n } else { n };
            assert_eq!(map.remove(&key), Some(u32::from(key)));
        }
        checked(&map);
        assert_eq!(map.len(), 10);
        map.clone().iter().for_each(|(key, _)| {
            map.remove(key);
        });
        assert!(map.is_empty() && map.root.is_none() && map.first().is_none());
    }
}

#[test]
fn a_change_copies_one_path() {
    fn nodes(node: &Arc<Node<u16, u32>>, out: &mut Vec<*const Node<u16, u32>>) {
        out.push(Arc::as_ptr(node));
        if let Node::Inner(children) = &**node {
            children.iter().for_each(|(_, child)| nodes(child, out));
        }
    }
    let of = |map: &PersistentMap<u16, u32>| {
        let mut out = Vec::new();
        nodes(map.root.as_ref().unwrap(), &mut out);
        out
    };
    let map: PersistentMap<u16, u32> = (0..30_000).map(|n| (n * 2, 0)).collect();
    let before = of(&map);
    let mut changed = map.clone();
    changed.insert(30_001, 1);
    changed.remove(&40_000);
    let fresh = of(&changed)
        .iter()
        .filter(|node| !before.contains(node))
        .count();
    assert!(
        before.len() > 900 && fresh <= 8,
        "{fresh} of {}",
        before.len()
    );
}
