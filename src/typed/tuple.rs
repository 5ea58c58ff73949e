//! Tuples as keys: component after component, the last as it would be alone.

use terrace_base::Result;

use super::key::{Key, Place};

macro_rules! tuple {
    ($($inner:ident)* | $last:ident) => {
        impl<$($inner: Key,)* $last: Key> Key for ($($inner,)* $last,) {
            #[allow(non_snake_case)] // The names of the types serve for the components.
            fn encode(&self, place: Place, out: &mut Vec<u8>) {
                let ($($inner,)* $last,) = self;
                $($inner.encode(Place::Inside, out);)*
                $last.encode(place, out);
            }

            fn decode(place: Place, bytes: &mut &[u8]) -> Result<Self> {
                Ok(($($inner::decode(Place::Inside, bytes)?,)* $last::decode(place, bytes)?,))
            }
        }
    };
}

tuple!(| A);
tuple!(A | B);
tuple!(A B | C);
tuple!(A B C | D);
tuple!(A B C D | E);
tuple!(A B C D E | F);
