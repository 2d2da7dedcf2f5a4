//! Asking for a region back: the requests of a live space.

use std::sync::Arc;

use super::space::AddressSpace;
use crate::model::change::RegionTarget;
use crate::model::error::Result;
use crate::model::unplug::UnplugRequest;

impl AddressSpace {
    /// Asks for a region: the code that drives the guest sees the request, and removes the region when the guest has let go.
    pub fn request_unplug(&self, target: &RegionTarget) -> Result<Arc<UnplugRequest>> {
        self.check_process()?;
        self.check_leads()?;
        // Locked before the map is looked at. A removal settles its requests once it is published: this one either finds the region
        // gone, or is in the table by then.
        let mut unplugs = self.unplugs()?;
        let map = self.map();
        Ok(unplugs.request(target.find(&map)?))
    }

    /// Withdraws a request; one that is settled is left alone.
    pub fn cancel_unplug(&self, request: &UnplugRequest) -> Result<()> {
        self.unplugs()?.cancel(request);
        Ok(())
    }

    /// The requests that are pending, oldest first.
    pub fn unplug_requests(&self) -> Result<Vec<Arc<UnplugRequest>>> {
        Ok(self.unplugs()?.pending().to_vec())
    }
}
