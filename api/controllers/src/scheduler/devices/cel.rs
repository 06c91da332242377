//! The language of device selectors: CEL, with the variable `device` and Kubernetes' functions for quantities and versions
//! ("Common Expression Language in Kubernetes" and "ResourceClaim v1", `selectors`, of the Kubernetes documentation).

use std::any::Any;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{ComprehensionExpr, Expr, ListExpr, LiteralValue};
use cel::common::traits::{Container, Indexer};
use cel::common::types::{CelBool, CelDouble, CelInt, CelString, MAP_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::parser::{Macro, MacroExprHelper};
use cel::{
    Context, DeclarationError, Env, ExecutionError, IdedExpr, ParseError, Program, Value, add_member_overload,
    add_overload, extensions,
};
use kelson_sched::{Attribute, Device, DeviceSelector, SelectorLanguage};
use kelson_wire::kube::quantity;
use semver::Version;

/// Compiles selectors.
pub struct Cel {
    env: Arc<Env>,
}

struct Selector {
    program: Program,
    env: Arc<Env>,
}

impl fmt::Debug for Cel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cel")
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.program.fmt(f)
    }
}

impl Cel {
    /// The language.
    ///
    /// # Errors
    /// If the library does not take one of the functions.
    pub fn new() -> Result<Cel, DeclarationError> {
        let mut env = Env::stdlib();
        env.add_extension(extensions::strings)?;
        env.add_macro(Macro::receiver("bind", 3, bind))?;
        declare(&mut env)?;
        Ok(Cel { env: Arc::new(env) })
    }
}

impl SelectorLanguage for Cel {
    fn compile(&self, expression: &str) -> Result<Box<dyn DeviceSelector>, String> {
        let program = self.env.compile(expression).map_err(|errors| errors.to_string())?;
        Ok(Box::new(Selector { program, env: self.env.clone() }))
    }
}

impl DeviceSelector for Selector {
    fn matches(&self, driver: &str, device: &Device) -> Result<bool, String> {
        let mut context = Context::with_env(self.env.clone());
        context.add_variable_as_val("device", Box::new(Fields::of_device(driver, device)));
        match self.program.execute(&context) {
            Ok(Value::Bool(matches)) => Ok(matches),
            Ok(other) => Err(format!("CEL result of type {} could not be converted to bool", other.type_of())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// `cel.bind(name, value, expression)`, as a comprehension over nothing whose accumulator is the name.
fn bind(
    helper: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
) -> Result<Option<IdedExpr>, ParseError> {
    let of_cel = matches!(target.as_ref().map(|target| &target.expr), Some(Expr::Ident(name)) if name == "cel");
    if !of_cel || !matches!(args.first().map(|name| &name.expr), Some(Expr::Ident(_))) {
        return Ok(None);
    }
    let (Some(result), Some(accu_init), Some(name)) = (args.pop(), args.pop(), args.pop()) else { return Ok(None) };
    let Expr::Ident(accu_var) = name.expr else { return Ok(None) };
    let comprehension = ComprehensionExpr {
        iter_range: helper.next_expr(Expr::List(ListExpr::new(Vec::new()))),
        iter_var: "#unused".to_string(),
        iter_var2: None,
        loop_cond: helper.next_expr(Expr::Literal(LiteralValue::Boolean(false.into()))),
        loop_step: helper.next_expr(Expr::Ident(accu_var.clone())),
        accu_var,
        accu_init,
        result,
    };
    Ok(Some(helper.next_expr(Expr::Comprehension(Box::new(comprehension)))))
}

/// A map by text.
#[derive(Clone, Debug)]
struct Fields {
    values: BTreeMap<String, Box<dyn Val>>,
    /// What is not there is an empty map: a domain of which a device has nothing.
    open: bool,
}

impl Fields {
    fn closed() -> Fields {
        Fields { values: BTreeMap::new(), open: false }
    }

    fn of_device(driver: &str, device: &Device) -> Fields {
        let attributes = device.attributes.iter().map(|(name, value)| {
            let value: Box<dyn Val> = match value {
                Attribute::Int(value) => Box::new(CelInt::from(*value)),
                Attribute::Bool(value) => Box::new(CelBool::from(*value)),
                Attribute::Text(text) => Box::new(CelString::from(text.to_string())),
                Attribute::Version(text) => match Version::parse(text) {
                    Ok(version) => Box::new(Semver(version)),
                    // The API takes none that cannot be read.
                    Err(_) => Box::new(CelString::from(text.to_string())),
                },
            };
            (&**name, value)
        });
        let capacity = device.capacity.iter().map(|(name, amount)| {
            // More than can be counted is as much as can.
            let amount: Box<dyn Val> = Box::new(Quantity(quantity::millis(amount).unwrap_or(i64::MAX)));
            (&**name, amount)
        });
        let mut fields = Fields::closed();
        fields.values.insert("driver".into(), Box::new(CelString::from(driver.to_string())));
        fields.values.insert("attributes".into(), Box::new(Fields::by_domain(driver, attributes)));
        fields.values.insert("capacity".into(), Box::new(Fields::by_domain(driver, capacity)));
        fields
    }

    /// A name without a domain is of the driver's.
    fn by_domain<'a>(driver: &str, values: impl Iterator<Item = (&'a str, Box<dyn Val>)>) -> Fields {
        let mut domains: BTreeMap<String, Fields> = BTreeMap::new();
        for (name, value) in values {
            let (domain, id) = name.split_once('/').unwrap_or((driver, name));
            let fields = domains.entry(domain.into()).or_insert_with(Fields::closed);
            fields.values.insert(id.into(), value);
        }
        let boxed = |(domain, fields): (String, Fields)| -> (String, Box<dyn Val>) { (domain, Box::new(fields)) };
        Fields { values: domains.into_iter().map(boxed).collect(), open: true }
    }
}

fn text(key: &dyn Val) -> Result<&str, ExecutionError> {
    let unexpected =
        || ExecutionError::UnexpectedType { got: key.get_type().name().to_owned(), want: "string".to_owned() };
    key.downcast_ref::<CelString<'_>>().map(CelString::inner).ok_or_else(unexpected)
}

impl Indexer for Fields {
    fn get<'b, 'v>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let key = text(key)?;
        match self.values.get(key) {
            Some(value) => Ok(CowVal::Borrowed(value.as_ref())),
            None if self.open => Ok(CowVal::owned(Fields::closed())),
            None => Err(ExecutionError::no_such_key(key)),
        }
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

impl Container for Fields {
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.values.contains_key(text(key)?))
    }
}

impl Val for Fields {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }
}

/// A value of Kubernetes' own.
macro_rules! opaque {
    ($(#[$about:meta])* $name:ident($inner:ty), $type:ident = $text:literal) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq)]
        struct $name($inner);

        static $type: LazyLock<Type> = LazyLock::new(|| Type::new_opaque_type($text));

        impl Val for $name {
            fn get_type(&self) -> &Type {
                &$type
            }

            fn cel_type() -> &'static Type {
                &$type
            }

            fn equals(&self, other: &dyn Val) -> bool {
                other.downcast_ref::<$name>() == Some(self)
            }

            fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
            where
                Self: 'v,
            {
                Box::new(self.clone())
            }

            fn as_any(&self) -> Option<&dyn Any> {
                Some(self)
            }
        }

        impl StaticVal for $name {}
    };
}

opaque! {
    /// In thousandths.
    Quantity(i64), QUANTITY = "kubernetes.Quantity"
}

opaque! {
    /// A semantic version.
    Semver(Version), SEMVER = "kubernetes.Semver"
}

fn sign(ordering: Ordering) -> CelInt {
    CelInt::from(ordering as i64)
}

fn parse_quantity(text: &CelString<'_>) -> Result<Quantity, ExecutionError> {
    let millis = quantity::millis(text.inner());
    millis.map(Quantity).ok_or_else(|| ExecutionError::function_error("quantity", "not a quantity"))
}

fn is_quantity(text: &CelString<'_>) -> CelBool {
    quantity::millis(text.inner()).is_some().into()
}

fn quantity_compare(a: &Quantity, b: &Quantity) -> CelInt {
    sign(a.0.cmp(&b.0))
}

fn quantity_greater(a: &Quantity, b: &Quantity) -> CelBool {
    (a.0 > b.0).into()
}

fn quantity_less(a: &Quantity, b: &Quantity) -> CelBool {
    (a.0 < b.0).into()
}

fn quantity_add(a: &Quantity, b: &Quantity) -> Quantity {
    Quantity(a.0.saturating_add(b.0))
}

fn quantity_add_int(a: &Quantity, b: &CelInt) -> Quantity {
    Quantity(a.0.saturating_add(b.inner().saturating_mul(1000)))
}

fn quantity_sub(a: &Quantity, b: &Quantity) -> Quantity {
    Quantity(a.0.saturating_sub(b.0))
}

fn quantity_sub_int(a: &Quantity, b: &CelInt) -> Quantity {
    Quantity(a.0.saturating_sub(b.inner().saturating_mul(1000)))
}

fn quantity_sign(a: &Quantity) -> CelInt {
    CelInt::from(a.0.signum())
}

fn quantity_is_integer(a: &Quantity) -> CelBool {
    (a.0 % 1000 == 0).into()
}

fn quantity_integer(a: &Quantity) -> Result<CelInt, ExecutionError> {
    let whole = a.0 % 1000 == 0;
    let integer = whole.then(|| CelInt::from(a.0 / 1000));
    integer.ok_or_else(|| ExecutionError::function_error("asInteger", "cannot convert value to integer"))
}

fn quantity_float(a: &Quantity) -> CelDouble {
    CelDouble::from(a.0 as f64 / 1000.0)
}

fn parse_semver(text: &CelString<'_>) -> Result<Semver, ExecutionError> {
    Version::parse(text.inner()).map(Semver).map_err(|error| ExecutionError::function_error("semver", error))
}

fn is_semver(text: &CelString<'_>) -> CelBool {
    Version::parse(text.inner()).is_ok().into()
}

/// Build metadata does not count.
fn precedence(a: &Semver, b: &Semver) -> Ordering {
    a.0.cmp_precedence(&b.0)
}

fn semver_compare(a: &Semver, b: &Semver) -> CelInt {
    sign(precedence(a, b))
}

fn semver_greater(a: &Semver, b: &Semver) -> CelBool {
    precedence(a, b).is_gt().into()
}

fn semver_less(a: &Semver, b: &Semver) -> CelBool {
    precedence(a, b).is_lt().into()
}

fn part(number: u64) -> CelInt {
    CelInt::from(i64::try_from(number).unwrap_or(i64::MAX))
}

fn semver_major(a: &Semver) -> CelInt {
    part(a.0.major)
}

fn semver_minor(a: &Semver) -> CelInt {
    part(a.0.minor)
}

fn semver_patch(a: &Semver) -> CelInt {
    part(a.0.patch)
}

fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    add_overload!(env, fn parse_quantity: (CelString) -> Result<Quantity>, name = "quantity")?;
    add_overload!(env, fn is_quantity: (CelString) -> CelBool, name = "isQuantity")?;
    add_member_overload!(env, fn quantity_compare: (Quantity, Quantity) -> CelInt, name = "compareTo")?;
    add_member_overload!(env, fn quantity_greater: (Quantity, Quantity) -> CelBool, name = "isGreaterThan")?;
    add_member_overload!(env, fn quantity_less: (Quantity, Quantity) -> CelBool, name = "isLessThan")?;
    add_member_overload!(env, fn quantity_add: (Quantity, Quantity) -> Quantity, name = "add")?;
    add_member_overload!(env, fn quantity_add_int: (Quantity, CelInt) -> Quantity, name = "add")?;
    add_member_overload!(env, fn quantity_sub: (Quantity, Quantity) -> Quantity, name = "sub")?;
    add_member_overload!(env, fn quantity_sub_int: (Quantity, CelInt) -> Quantity, name = "sub")?;
    add_member_overload!(env, fn quantity_sign: (Quantity) -> CelInt, name = "sign")?;
    add_member_overload!(env, fn quantity_is_integer: (Quantity) -> CelBool, name = "isInteger")?;
    add_member_overload!(env, fn quantity_integer: (Quantity) -> Result<CelInt>, name = "asInteger")?;
    add_member_overload!(env, fn quantity_float: (Quantity) -> CelDouble, name = "asApproximateFloat")?;
    add_overload!(env, fn parse_semver: (CelString) -> Result<Semver>, name = "semver")?;
    add_overload!(env, fn is_semver: (CelString) -> CelBool, name = "isSemver")?;
    add_member_overload!(env, fn semver_compare: (Semver, Semver) -> CelInt, name = "compareTo")?;
    add_member_overload!(env, fn semver_greater: (Semver, Semver) -> CelBool, name = "isGreaterThan")?;
    add_member_overload!(env, fn semver_less: (Semver, Semver) -> CelBool, name = "isLessThan")?;
    add_member_overload!(env, fn semver_major: (Semver) -> CelInt, name = "major")?;
    add_member_overload!(env, fn semver_minor: (Semver) -> CelInt, name = "minor")?;
    add_member_overload!(env, fn semver_patch: (Semver) -> CelInt, name = "patch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_say_what_kubernetes_documents() {
        let language = Cel::new().expect("declared");
        let device = Device {
            attributes: vec![
                ("model".into(), Attribute::Text("a100".into())),
                ("cores".into(), Attribute::Int(8)),
                ("healthy".into(), Attribute::Bool(true)),
                ("driverVersion".into(), Attribute::Version("1.2.10".into())),
                ("pcie.com/root".into(), Attribute::Text("pci0".into())),
            ],
            capacity: vec![("memory".into(), "40Gi".into()), ("net.com/speed".into(), "1500m".into())],
            ..Device::default()
        };
        let ask = |expression: &str| {
            let selector = language.compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
            selector.matches("gpu.com", &device)
        };
        for (expression, want) in [
            ("true", true),
            ("device.driver == 'gpu.com'", true),
            ("device.driver == 'other.com'", false),
            ("device.attributes['gpu.com'].model == 'a100'", true),
            ("device.attributes[\"gpu.com\"].cores > 4 && device.attributes['gpu.com'].healthy", true),
            ("device.attributes['pcie.com'].root.startsWith('pci')", true),
            ("device.attributes['gpu.com'].model.matches('^a[0-9]+$')", true),
            ("device.attributes['gpu.com'].model in ['h100', 'a100']", true),
            ("'gpu.com' in device.attributes && !('x.com' in device.attributes)", true),
            ("has(device.attributes['gpu.com'].model)", true),
            ("has(device.attributes['gpu.com'].colour)", false),
            ("has(device.attributes['unknown.com'].model)", false),
            ("device.capacity['gpu.com'].memory.compareTo(quantity('40Gi')) == 0", true),
            ("device.capacity['gpu.com'].memory.isGreaterThan(quantity('40G'))", true),
            ("device.capacity['gpu.com'].memory.isLessThan(quantity('1Ti').sub(quantity('990Gi')))", false),
            ("device.capacity['net.com'].speed == quantity('1.5') && isQuantity('5k') && !isQuantity('k')", true),
            ("device.capacity['net.com'].speed.isInteger()", false),
            ("device.capacity['gpu.com'].memory.asInteger() == 42949672960", true),
            ("device.attributes['gpu.com'].driverVersion.compareTo(semver('1.2.9')) > 0", true),
            ("device.attributes['gpu.com'].driverVersion.isLessThan(semver('1.2.10-rc.1'))", false),
            ("device.attributes['gpu.com'].driverVersion.minor() == 2 && isSemver('1.0.0')", true),
            ("cel.bind(gpu, device.attributes['gpu.com'], gpu.healthy && gpu.cores == 8)", true),
            ("device.attributes['gpu.com'].model.lowerAscii() == 'a100'", true),
        ] {
            assert_eq!(ask(expression), Ok(want), "{expression}");
        }
        for (expression, why) in [
            ("device.attributes['gpu.com'].colour == 'red'", "No such key: colour"),
            ("device.attributes['unknown.com'].model == 'a100'", "No such key: model"),
            ("device.driver", "CEL result of type string could not be converted to bool"),
            ("quantity('many').isInteger()", "Error executing function 'quantity': not a quantity"),
        ] {
            assert_eq!(ask(expression), Err(why.to_string()), "{expression}");
        }
        assert!(language.compile("device.attributes[").is_err());
    }
}
